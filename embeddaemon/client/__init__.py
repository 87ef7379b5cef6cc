"""The clients: two public classes over one decider, and a private daemon in one line.

``_core`` decides for one connection and ``_window`` for one call; ``_operations`` says what each method asks and makes
of the answers; ``_requests`` checks what was given. None of these does I/O. ``_wire`` holds the socket, ``sync`` and
``aio`` drive it, ``local`` starts a daemon. Needs pyzmq, msgpack, numpy and tqdm: never torch.
"""
