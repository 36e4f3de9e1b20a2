//! The one integration-test binary. Each module is a file of its own beside this one.

mod backend_contract;
mod backend_local;
mod backend_s3_faults;
mod backend_s3_tls;
mod cli_backup;
mod cli_doctor;
mod cli_dump;
mod cli_find_diff;
mod cli_init_key;
mod cli_ls_stats;
mod cli_restore;
mod concurrent;
mod crash;
mod damage;
mod doctor;
mod fuzz_smoke;
mod golden;
mod memory;
mod prune;
mod repair;
mod roles;
mod s3_journey;
mod simulator;
mod support;
mod tidy;
mod tree_merge;
