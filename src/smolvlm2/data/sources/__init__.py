"""Published layouts read row by row: three readers, and one small adapter a data set."""
