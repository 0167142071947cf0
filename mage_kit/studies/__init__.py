"""What is done with whole recipes: tokens cached, curves verified, trainings compared, results in a table, the demo."""
