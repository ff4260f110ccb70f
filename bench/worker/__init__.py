"""How fast the worker is: beside the least that its job costs, and beside what a user would write."""
