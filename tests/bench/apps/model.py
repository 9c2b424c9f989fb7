"""The pydantic model that the FastAPI yardsticks declare: what a user would write."""

from pydantic import BaseModel


class Message(BaseModel):
    """One item of the history."""

    type: str
    content: str
    timestamp: str
    content_type: str
    media_url: str | None = None


class Payload(BaseModel):
    """The documented fields, typed as the page types them."""

    last_messages: list[Message]
    conversation_paragraph: str
    phone_number: str
    recipient_name: str
    user_id: str
    last_message_of_user: str
    last_message_of_bot: str
    message_type: str
    user_last_message_time: int
    bot_last_message_time: int
    attachment_url: str | None = None
    note: str = ""
    note_automation: str = ""
    labels: str = ""
    incoming_message: bool = True
    send_by: str = ""
    was_message_by_human: bool = False

    @property
    def key(self) -> str:
        """The documented key, and the text that it forgets."""
        return f"{self.phone_number}:{self.user_last_message_time}:{self.last_message_of_user}"
