//! Settings that come from outside: flags, environment, configuration file, in this order of precedence.

pub mod calls;
pub mod credential;
pub mod deployment;
pub mod discover;
pub mod file;
pub mod masked;
pub mod origins;
pub mod pairs;
