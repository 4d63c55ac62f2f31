"""Text: documents in files, tables and archives; tokens packed into rows of one length."""
