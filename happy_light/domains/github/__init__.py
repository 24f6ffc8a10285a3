"""GitHub: link an account with a GitHub user, whose name and avatar it takes (docs/protocol.md, section 10).

GET    /v1/connect/github/params      get the URL of GitHub's sign-in page
GET    /v1/connect/github/callback    finish the sign-in: GitHub redirects the browser here
POST   /v1/connect/github/webhook     receive an event of GitHub; the signature is checked, the event is ignored
DELETE /v1/connect/github             unlink the account
update update-account
"""

from __future__ import annotations

from happy_light.domains.github import oauth, webhook

routes = [*oauth.routes, *webhook.routes]
