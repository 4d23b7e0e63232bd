"""Commands over the admin API. What each asks and prints is apart from how it is drawn: `*_view` modules are functions of documents."""
