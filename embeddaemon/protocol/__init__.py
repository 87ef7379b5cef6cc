"""What travels between the processes: messages, their frames, their limits, and where the sockets are.

``messages`` and ``codec`` are the clients' protocol (docs/protocol.md); ``link`` is the supervisor's with its workers;
``control`` is the supervisor's with the processes that fork. None of them knows what the messages are for.
"""
