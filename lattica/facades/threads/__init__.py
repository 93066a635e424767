"""Between the thread that runs trio and the threads and loops of the program."""
