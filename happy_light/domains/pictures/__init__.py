"""Pictures of projects and sessions: encrypted files, uploaded first and then activated (docs/protocol.md, section 19).

POST   /v1/projects/:id/avatar/request-upload     get the URL to upload a picture of a project to
PUT    /v1/projects/:id/avatar/:file              upload a picture of a project
PATCH  /v1/projects/:id/avatar                    make an uploaded picture the active one of a project
DELETE /v1/projects/:id/avatar                    remove the active picture of a project
POST   /v1/projects/:id/avatar/request-download   get the URL of the active picture of a project
GET    /v1/projects/:id/avatar/:file              download the active picture of a project
POST   /v1/sessions/:id/avatar/request-upload     get the URL to upload a picture of a session to
PUT    /v1/sessions/:id/avatar/:file              upload a picture of a session
PATCH  /v1/sessions/:id/avatar                    make an uploaded picture the active one of a session
DELETE /v1/sessions/:id/avatar                    remove the active picture of a session
POST   /v1/sessions/:id/avatar/request-download   get the URL of the active picture of a session
GET    /v1/sessions/:id/avatar/:file              download the active picture of a session

owners.py      how the routes of projects and of sessions differ
endpoints.py   the routes, written once for both
"""

from __future__ import annotations

from happy_light.domains.pictures.endpoints import PictureEndpoints
from happy_light.domains.pictures.owners import PROJECT, SESSION

routes = [*PictureEndpoints(PROJECT).routes(), *PictureEndpoints(SESSION).routes()]
