//! The one integration-test binary. Each module is a file of its own beside this one.

mod backend_contract;
mod backend_local;
mod backend_s3_faults;
mod backend_s3_tls;
mod concurrent;
mod crash;
mod damage;
mod doctor;
mod fuzz_smoke;
mod repair;
mod roles;
mod s3_journey;
mod support;
