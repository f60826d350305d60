import os

# How many rows the workers share: LEADEXEC_TASK_ROWS=10000 for a long look.
ROWS = int(os.environ.get("LEADEXEC_TASK_ROWS", "400"))
