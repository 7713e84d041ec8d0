"""The state machines over the store: outgoing settlements, incoming credits, engine hooks."""
