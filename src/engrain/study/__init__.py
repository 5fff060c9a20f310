"""From a conversation to a lesson: what may be learned, secrets, explicit examples."""
