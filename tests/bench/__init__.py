"""The benchmark: each figure beside its yardstick in the same run. ``python -m tests.bench``.

Everything runs on the loopback, bounded, and stops by itself. A row is *void* when its run was
not sound (an answer that was not 2xx, an event that is not in the file, a job that never
ended), and *in doubt* when others used the machine meanwhile. ``BENCH_ARQ`` names a Python
that can import arq, fastapi, uvicorn, uvloop and httptools, where this one cannot.
"""
