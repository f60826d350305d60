"""LeadExec's server, seen from ours: the two calls and what their answers mean. No ORM."""
