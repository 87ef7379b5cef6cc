"""The one parent process: queues, lifecycle and memory decisions (pure); the loop, sockets and processes around them."""
