//! Evidence for people: what was asked, what is proved, by whom, and what is not.
//!
//! What must stay true: it is a [`crate::page`], and only tells what the bundle says: the bundle counts, not the page.

use maud::{Markup, html};
use serde_json::Value as Json;

use crate::audit::evidence::verify::Verified;
use crate::audit::history::Facts;
use crate::format::key_slot::Certificate;
use crate::format::snapshot::Completeness;
use crate::format::statement::Asked;
use crate::page::{self, table, tile};
use crate::units::format_bytes;

/// Writes the page.
pub(super) fn html(verified: &Verified) -> String {
    let predicate = &verified.statement.predicate;
    let title = format!("Evidence about {}", title(&predicate.asked));
    let body = html! {
        header {
            h1 { "Evidence" }
            p.verdict { (self::title(&predicate.asked)) }
            p {
                "of deployment " (predicate.asked.deployment)
                @if let Some(moment) = &predicate.asked.as_of { ", as of " (moment) }
            }
        }
        main {
            (claims(verified))
            (files(verified))
            (facts("What the registry says", &predicate.facts))
            @if let Some(run) = &predicate.run_facts { (facts("What the run says", run)) }
            (chain(verified))
        }
        footer {
            p {
                "Made by " (predicate.program) " on " (predicate.made.strftime("%F %T UTC").to_string()) " by "
                (predicate.signer.label) ". This page proves nothing: mlvault audit verify, or verify_evidence.py, verifies the "
                "bundle that it is from."
            }
        }
    };
    page::page(&title, &body).into_string()
}

fn title(asked: &Asked) -> String {
    match (&asked.model, asked.version, &asked.run) {
        (Some(model), Some(version), _) => format!("model {model}, version {version}"),
        (.., run) => format!("run {}", run.as_deref().unwrap_or_default()),
    }
}

fn claims(verified: &Verified) -> Markup {
    let predicate = &verified.statement.predicate;
    let record = &verified.record;
    html! {
        section {
            h2 { "What is proved" }
            dl.tiles {
                (tile("Files", &predicate.files.len().to_string(), &format_bytes(predicate.files.iter().map(|file| file.bytes).sum()), false))
                (tile("Snapshot", &predicate.snapshot.short(), &record.started.strftime("%F %R UTC").to_string(), false))
                (tile("Backup signed by", &verified.writer.label, verified.writer.role.name(), false))
                (tile("Evidence signed by", &predicate.signer.label, predicate.signer.role.name(), false))
            }
            ul {
                li { "A key that this repository's root key had certified (" (verified.writer.label) ") signed a record of a backup, and that record
                    covers each of the files below, with its path, its length and its BLAKE3 digest." }
                li { "None of them has been altered since that record was signed, if its digest is still the same." }
                @if verified.is_content_read() {
                    li { "Whoever made this evidence (" (predicate.signer.label) ") has read all of the files from the repository: they had those digests, and the SHA-256 below." }
                }
            }
            h3 { "What is not proved" }
            ul {
                li { "When. The times are the word of whoever signed (" (record.started.strftime("%F %T UTC").to_string()) "), and of the place where
                    the snapshot is stored (" (predicate.arrived.strftime("%F %T UTC").to_string()) "). A time stamp, if this bundle has one
                    (statement.tsr), proves that the bundle is no younger." }
                li { "That what was backed up is what was in use: only that it was in the registry's place when the backup was made." }
                li { "That the root key is the right one: compare the pin " code { (verified.pin()) } " with one that was kept elsewhere." }
                li { "Anything against somebody who has the key of the backup, and could sign another record: the log tells of such
                    records, if its checkpoints were kept elsewhere." }
                @if !verified.is_content_read() {
                    li { "SHA-256 digests: the key that made this evidence cannot read content." }
                }
                @if record.completeness == Completeness::Incomplete {
                    li { "That the snapshot has everything: it is incomplete. The files below are in it." }
                }
            }
        }
    }
}

fn files(verified: &Verified) -> Markup {
    let rows = html! {
        @for (file, subject) in verified.statement.predicate.files.iter().zip(&verified.statement.subject) {
            tr {
                th scope="row" { (file.name) }
                td { (format_bytes(file.bytes)) }
                td {
                    code { "BLAKE3 " (subject.digest.blake3.map_or_else(String::new, |digest| digest.to_string())) }
                    @if let Some(sha256) = subject.digest.sha256 { br; code { "SHA-256 " (sha256) } }
                }
            }
        }
    };
    html! { section { h2 { "Files" } (table("Files", &["File", "Size", "Digests"], &rows)) } }
}

fn facts(title: &str, facts: &Facts) -> Markup {
    let text = |value: &Json| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let rows = html! { @for (what, is) in facts { tr { th scope="row" { (what) } td { (text(is)) } } } };
    html! {
        section {
            h2 { (title) }
            p { "From the snapshot's catalogue. This is the word of whoever made this evidence; no proof covers it." }
            (table(title, &["What", "Is"], &rows))
        }
    }
}

fn chain(verified: &Verified) -> Markup {
    let predicate = &verified.statement.predicate;
    let key = |what: &str, certificate: &Certificate| {
        html! {
            tr {
                th scope="row" { (what) }
                td { (certificate.label) ", " (certificate.role.name()) ", key slot " (certificate.slot) ", made " (certificate.created.strftime("%F").to_string()) }
                td { code { (certificate.signer) } }
            }
        }
    };
    let rows = html! {
        tr {
            th scope="row" { "Root key" }
            td { "of repository " (predicate.repository) ", pin " code { (verified.pin()) } }
            td { code { (predicate.root_key) } }
        }
        (key("Signed the backup", &verified.writer))
        (key("Signed this evidence", &predicate.signer))
    };
    html! { section { h2 { "Keys" } (table("Keys", &["What", "Whose", "Ed25519 key"], &rows)) } }
}
