"""A site behind the real servers that people run: uWSGI, gunicorn and uvicorn."""
