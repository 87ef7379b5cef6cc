"""The one parent process: queues, lifecycle and memory decisions (pure), and the loop, sockets and processes around them."""
