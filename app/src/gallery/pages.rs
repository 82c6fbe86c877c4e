//! The page's own files.

use axum::extract::Path;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

const FILES: [(&str, &str, &str); 4] = [
    ("", "text/html; charset=utf-8", include_str!("page/index.html")),
    ("gallery.css", "text/css; charset=utf-8", include_str!("page/gallery.css")),
    ("gallery.js", "text/javascript; charset=utf-8", include_str!("page/gallery.js")),
    ("icon.svg", "image/svg+xml", include_str!("page/icon.svg")),
];

pub async fn index() -> Response {
    named("")
}

pub async fn file(Path(name): Path<String>) -> Response {
    named(&name)
}

fn named(name: &str) -> Response {
    match FILES.iter().find(|it| it.0 == name) {
        Some((_, kind, text)) => ([(header::CONTENT_TYPE, *kind)], *text).into_response(),
        None => (StatusCode::NOT_FOUND, "there is no such page").into_response(),
    }
}
