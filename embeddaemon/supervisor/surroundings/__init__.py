"""What is around the daemon: the machine, the process that started it, the service manager."""
