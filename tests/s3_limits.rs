//! Limits of the network: what is measured is how long a server was busy with so many bytes.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mlvault::backend::Backend;
use mlvault::backend::s3::S3Backend;
use mlvault::cancel::Cancel;
use mlvault::s3::{Lane, Limits, Patience, S3Options};

use crate::support::cli::noise;
use crate::support::s3_server::{BUCKET, Program, S3Server};

const RATE: u64 = 512 << 10;
/// Length of an object, and how many go at once.
const LEN: usize = 256 << 10;
const OBJECTS: usize = 4;

#[test]
fn uploads_and_downloads_together_keep_to_their_limits() {
    let server = S3Server::start(Program::Rclone);
    let lane = || Lane::limited(RATE, &Cancel::default());
    let limits = Limits { upload: lane(), download: lane() };
    // Two clients, as of a repository and of an artifact bucket.
    let clients = [0, 1].map(|_| {
        let options = S3Options { limits: limits.clone(), ..server.options() };
        Arc::new(S3Backend::connect(BUCKET, "limited", &options, Patience::default()).unwrap())
    });
    let each = |work: &(dyn Fn(&S3Backend, usize) + Sync)| {
        let begun = Instant::now();
        thread::scope(|scope| {
            for number in 0..OBJECTS {
                let client = &clients[number % clients.len()];
                scope.spawn(move || work(client, number));
            }
        });
        begun.elapsed()
    };
    let content = |number: usize| Bytes::from(noise(number as u64, LEN));
    let at_least = Duration::from_secs_f64((OBJECTS * LEN) as f64 / RATE as f64 * 0.9);
    let sent = each(&|client, number| client.create(&format!("object-{number}"), content(number)).unwrap());
    let received =
        each(&|client, number| assert_eq!(client.read(&format!("object-{number}")).unwrap(), content(number)));
    assert!(sent > at_least && received > at_least, "{sent:?} and {received:?}, at least {at_least:?}");
    // Far above what the limit alone takes: this finds waits that add up, not a slow machine.
    assert!(sent < at_least * 15 && received < at_least * 15, "{sent:?} and {received:?}");
}
