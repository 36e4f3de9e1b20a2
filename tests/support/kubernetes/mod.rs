//! A Kubernetes cluster for the tests: a real control plane, and a stand-in for the node.
//!
//! What must stay true: admission, RBAC, server-side apply, Jobs, CronJobs, Deployments, Leases and watches are the real thing
//! ([`control_plane`]). Pods are not: [`node`] is a stand-in for a kubelet, and runs what is in them as local processes. One
//! cluster serves all tests of a process; each test works in a namespace of its own.

pub mod cluster;
pub mod control_plane;
pub mod helm;
pub mod namespace;
pub mod node;
pub mod process;

pub use cluster::Cluster;
pub use namespace::Namespace;
