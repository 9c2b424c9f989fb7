"""A small agent: it answers each text, and writes its answers to files.

    whatsable-receiver run agent:receiver        (in this folder)

An answer is ``answers/EVENT.txt``. A handler may run again for the same event, after a crash;
the file has the event's number, so a second run writes the same answer to the same place.
"""

import os
from pathlib import Path

from whatsable_receiver import Event, Receiver

ANSWERS = Path(os.environ.get("ANSWERS", "answers"))

receiver = Receiver()


def think(text: str, said_before: list[str]) -> str:
    """Your model goes here: what it is given is the conversation so far, oldest first."""
    if "human" in text.lower():
        return "I am getting a colleague."
    earlier = f" Earlier you said: {said_before[-1]!r}." if said_before else ""
    return f"You said: {text!r}.{earlier}"


@receiver.on("text", unless_label="human")
def answer(event: Event) -> None:
    """Answer one message; the conversation's next one waits until this returns."""
    history = [item.content for item in event.message.last_messages if item.type == "user"]
    said_before = [text for text in history if text and text != event.text]
    ANSWERS.mkdir(exist_ok=True)
    answer_file = ANSWERS / f"{event.id}.txt"
    answer_file.write_text(think(event.text, said_before) + "\n", encoding="utf-8")


@receiver.otherwise()
async def not_for_an_agent(event: Event) -> None:
    """Whatever is no text, or belongs to a human."""
    print(f"event {event.id} ({event.message.message_type}) is left to people")
