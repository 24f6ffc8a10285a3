"""What an operator does to a server, a file each: requests that a running server does, or a command while none runs."""
