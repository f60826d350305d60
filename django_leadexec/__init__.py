"""Sign in with LeadExec for Django: connections, fresh tokens, revocation."""

__version__ = "0.1.0"
