"""What people read of a judgement: text, Markdown, JSON, JUnit and a page; no module here decides or measures."""
