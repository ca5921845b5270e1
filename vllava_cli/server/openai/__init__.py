"""The routes of OpenAI's protocol, for any program."""
