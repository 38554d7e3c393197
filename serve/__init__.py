"""The server: one published model behind HTTP. Nothing here trains, exports or imports torch."""
