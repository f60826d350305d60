"""leadexec_required on the views of APIs, each with the real package."""
