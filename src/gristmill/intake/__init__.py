"""From what a caller sends, in a request or in a file, to items that can be stored: all that is wrong is found here."""
