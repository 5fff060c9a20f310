"""From a conversation to a lesson: curation, self-study, explicit examples, scoring."""
