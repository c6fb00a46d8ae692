"""Runs the migrations on the connection that the journal hands in; there is no other way to run them."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
