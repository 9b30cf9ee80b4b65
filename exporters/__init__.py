"""Write a plan for the servers people already use, and check what was written."""
