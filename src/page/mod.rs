//! HTML pages that one can look at, print, and send: what all of them have in common.
//!
//! What must stay true:
//! - A page needs nothing but itself: no script, no font, no image from elsewhere. It says so to the browser, too.
//! - Names come from outside, and stand in it as text only.
//! - What a colour says, a shape or a word says as well.

use maud::{DOCTYPE, Markup, PreEscaped, html};

/// The looks, which need nothing from elsewhere.
const STYLE: &str = include_str!("style.css");
/// What a browser may load: nothing.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";

/// Puts a page together.
pub fn page(title: &str, body: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="color-scheme" content="light dark";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body { (body) }
        }
    }
}

/// A number or word that matters, with what it is and what is to be said of it.
pub fn tile(name: &str, value: &str, more: &str, is_bad: bool) -> Markup {
    html! {
        div.tile.bad[is_bad] {
            dt { (name) }
            dd { strong { (value) } @if !more.is_empty() { br; (more) } }
        }
    }
}

/// A table that may be wider than the page, with the names of its columns.
pub fn table(name: &str, columns: &[&str], rows: &Markup) -> Markup {
    html! {
        div.scroll tabindex="0" role="region" aria-label=(name) {
            table {
                thead { tr { @for column in columns { th scope="col" { (column) } } } }
                tbody { (rows) }
            }
        }
    }
}
