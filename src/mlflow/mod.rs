//! What MLflow means by what it stores: locations, tables, versions of its schema, and the catalogue made from them.
//!
//! What must stay true: plain functions on values. Texts come from a database that others write, so nothing here panics
//! on any of them; a location that is not understood stays what it is and is reported, never guessed.

pub mod catalogue;
pub mod names;
mod releases;
pub mod roots;
pub mod schema;
pub mod uri;
