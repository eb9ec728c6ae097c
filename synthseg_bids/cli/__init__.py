"""Command lines; nothing else imports them."""
