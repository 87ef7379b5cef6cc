"""The one parent process: queues, lifecycle and memory decisions (pure); loop, sockets and processes around them."""
