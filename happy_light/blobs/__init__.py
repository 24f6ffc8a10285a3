"""Files: public files and private attachments."""
