"""Jobs: what the command line runs, joining training, generation and evaluation."""
