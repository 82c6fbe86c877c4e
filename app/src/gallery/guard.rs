//! Who may ask. Without a token only this machine is listened to, and only under its own names: a page
//! from elsewhere whose name was made to lead here (DNS rebinding) says another name.

use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Result;
use axum::extract::{Request, State};
use axum::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Redirect, Response};

use super::Gallery;

const COOKIE: &str = "dualpath-token";
const TOKEN_BYTES: usize = 16;

/// The rules of one running gallery.
pub struct Guard {
    listens_at: SocketAddr,
    /// Needed where others than this machine can reach it.
    token: Option<String>,
}

impl Guard {
    pub fn of(listens_at: SocketAddr) -> Result<Guard> {
        let token = match listens_at.ip().is_loopback() {
            true => None,
            false => Some(new_token()?),
        };
        Ok(Guard { listens_at, token })
    }

    /// The page's address, with the token.
    pub fn address(&self) -> String {
        match &self.token {
            None => format!("http://{}/", self.listens_at),
            Some(token) => format!("http://{}/?token={token}", self.listens_at),
        }
    }

    /// Refuses, or answers nothing.
    fn refuse(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
    ) -> Option<(StatusCode, &'static str)> {
        let text = |name: HeaderName| headers.get(name).and_then(|it| it.to_str().ok());
        match &self.token {
            Some(token) => {
                let cookies = text(header::COOKIE).unwrap_or_default().split("; ");
                let mut given = cookies.filter_map(|it| it.strip_prefix(COOKIE)?.strip_prefix('='));
                if !given.any(|it| same(it, token)) {
                    return Some((
                        StatusCode::UNAUTHORIZED,
                        "open the whole address that dualpath printed, with its token",
                    ));
                }
            }
            None => {
                let host = text(header::HOST).or_else(|| uri.authority().map(|it| it.as_str()));
                if !host.is_some_and(|it| self.is_own_name(it)) {
                    return Some((
                        StatusCode::FORBIDDEN,
                        "this gallery answers to 127.0.0.1 and localhost alone",
                    ));
                }
            }
        }
        // A browser says which page asks; pages from elsewhere may link here, and nothing more.
        let from = text(HeaderName::from_static("sec-fetch-site"));
        let links = *method == Method::GET && uri.path() == "/";
        if !links && from.is_some_and(|it| it != "same-origin" && it != "none") {
            return Some((StatusCode::FORBIDDEN, "another page may not ask this gallery"));
        }
        let origin = text(header::ORIGIN).and_then(|it| it.strip_prefix("http://"));
        if headers.contains_key(header::ORIGIN) && origin != text(header::HOST) {
            return Some((StatusCode::FORBIDDEN, "another page may not ask this gallery"));
        }
        None
    }

    fn is_own_name(&self, host: &str) -> bool {
        let port = self.listens_at.port();
        let names = ["127.0.0.1", "localhost", "[::1]"].map(|it| format!("{it}:{port}"));
        names.iter().any(|it| it == host) || host == self.listens_at.to_string()
    }
}

/// Stands before every answer.
pub async fn check(State(gallery): State<Arc<Gallery>>, request: Request, next: Next) -> Response {
    let guard = &gallery.guard;
    if let Some(response) = guard.let_in(request.uri()) {
        return response;
    }
    let mut response = match guard.refuse(request.method(), request.uri(), request.headers()) {
        Some(refusal) => refusal.into_response(),
        None => next.run(request).await,
    };
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// Nothing from elsewhere, nothing inline, no frame around it.
const HEADERS: [(HeaderName, &str); 5] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
];

impl Guard {
    /// Who comes with the token gets it as a cookie, and an address without it.
    fn let_in(&self, uri: &Uri) -> Option<Response> {
        let token = self.token.as_ref()?;
        let given = uri.query()?.split('&').find_map(|it| it.strip_prefix("token="))?;
        if uri.path() != "/" || !same(given, token) {
            return None;
        }
        let cookie = format!("{COOKIE}={token}; HttpOnly; SameSite=Strict; Path=/");
        Some(([(header::SET_COOKIE, cookie)], Redirect::to("/")).into_response())
    }
}

/// Takes as long whatever is given.
fn same(given: &str, token: &str) -> bool {
    given.len() == token.len()
        && given.bytes().zip(token.bytes()).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}

fn new_token() -> Result<String> {
    let mut bytes = [0; TOKEN_BYTES];
    getrandom::fill(&mut bytes)?;
    Ok(bytes.iter().fold(String::new(), |mut text, it| {
        let _ = write!(text, "{it:02x}");
        text
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(guard: &Guard, path: &str, headers: &[(&'static str, &'static str)]) -> Option<u16> {
        let named = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        let uri: Uri = path.parse().unwrap();
        guard.refuse(&Method::GET, &uri, &named.collect()).map(|it| it.0.as_u16())
    }

    #[test]
    fn only_this_machine_by_its_own_names() {
        let guard = Guard::of("127.0.0.1:7474".parse().unwrap()).unwrap();
        assert_eq!(guard.address(), "http://127.0.0.1:7474/");
        for host in ["127.0.0.1:7474", "localhost:7474", "[::1]:7474"] {
            assert_eq!(asked(&guard, "/", &[("host", host)]), None, "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:7474",
            "localhost",
            "127.0.0.1:80",
            "localhost:7474.evil.example",
        ] {
            assert_eq!(asked(&guard, "/", &[("host", host)]), Some(403), "{host}");
        }
        assert_eq!(asked(&guard, "/", &[]), Some(403));
        let own = ("host", "localhost:7474");
        let from = |site| asked(&guard, "/api/albums", &[own, ("sec-fetch-site", site)]);
        assert_eq!(
            (from("same-origin"), from("cross-site"), from("same-site")),
            (None, Some(403), Some(403))
        );
        // A link from elsewhere opens the page.
        assert_eq!(asked(&guard, "/", &[own, ("sec-fetch-site", "cross-site")]), None);
        let origin = |it| asked(&guard, "/api/albums", &[own, ("origin", it)]);
        assert_eq!(
            (origin("http://localhost:7474"), origin("http://evil.example"), origin("null")),
            (None, Some(403), Some(403))
        );
    }

    #[test]
    fn others_need_the_token() {
        let guard =
            Guard { listens_at: "192.0.2.1:7474".parse().unwrap(), token: Some("abcd".to_owned()) };
        let cookie = |it| asked(&guard, "/", &[("host", "any.example"), ("cookie", it)]);
        assert_eq!(cookie("dualpath-token=abcd"), None);
        assert_eq!(cookie("a=b; dualpath-token=abcd"), None);
        for wrong in [
            "dualpath-token=abce",
            "dualpath-token=abcde",
            "dualpath-token=",
            "xdualpath-token=abcd",
        ] {
            assert_eq!(cookie(wrong), Some(401), "{wrong}");
        }
        assert_eq!(asked(&guard, "/", &[("host", "any.example")]), Some(401));
        let door = |path: &str| guard.let_in(&path.parse().unwrap()).is_some();
        assert!(door("/?token=abcd"));
        assert!(!door("/?token=abc") && !door("/api/albums?token=abcd") && !door("/"));
        let (one, other) = (new_token().unwrap(), new_token().unwrap());
        assert!(one.len() == 32 && one != other);
    }
}
