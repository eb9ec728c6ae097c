"""What a page of a report contains."""

from __future__ import annotations

from html.parser import HTMLParser


class Tags(HTMLParser):
    """Collects the elements of a page, the addresses in them and the text of the body."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.text = ''
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.ids += [value for name, value in attrs if name == 'id']
        self.addresses += [value for name, value in attrs if name in ('src', 'href')]
        assert not [name for name, _ in attrs if name.startswith('on')]

    def handle_data(self, data):
        if self.tags and self.tags[-1] not in ('script', 'style'):
            self.text += data
