"""Clients and what may come of them: sockets, ZMTP, keys, who may talk, how much of it."""
