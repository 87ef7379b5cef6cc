"""The processes below the supervisor: the fork server, templates and workers, and the engines that compute in them.

Started by the supervisor as programs, never imported by it. Only below ``engines`` may torch be imported.
"""
