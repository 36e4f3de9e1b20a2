//! A real control plane: etcd, kube-apiserver and kube-controller-manager as processes on loopback ports.
//!
//! What must stay true: authorisation (RBAC), admission and the controllers are those of a cluster. What differs: there is no
//! scheduler and no kubelet, whose work [`super::node`] does, and so nobody looks after the health of nodes.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Mutex;
use std::thread::sleep;
use std::time::{Duration, Instant};

use http::Request;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use mlvault::crypto::keys::new_secret;
use tokio::runtime::Runtime;

use super::process;
use crate::support::tools;

/// How long it may take to start on a loaded machine.
const START_MAX: Duration = Duration::from_secs(180);
/// Times it is tried, because another process can take a port between choosing and using it.
const START_ATTEMPTS_MAX: usize = 3;
/// How often it is asked whether it is ready.
const LOOK: Duration = Duration::from_millis(100);

/// A running control plane.
pub struct ControlPlane {
    /// Where the API server listens, on 127.0.0.1.
    pub port: u16,
    /// Certificates, by which clients know the API server, as PEM.
    pub authority: String,
    /// The administrator's token.
    pub token: String,
    directory: PathBuf,
    processes: Mutex<Vec<(&'static str, Child)>>,
}

impl ControlPlane {
    pub fn start(runtime: &Runtime) -> Self {
        for _ in 1..START_ATTEMPTS_MAX {
            if let Ok(started) = Self::try_start(runtime) {
                return started;
            }
        }
        Self::try_start(runtime).unwrap_or_else(|told| panic!("The control plane does not start:\n{told}"))
    }

    /// Returns a file with which the administrator's programs find the API server.
    pub fn kubeconfig(&self) -> PathBuf {
        self.directory.join("admin")
    }

    /// Returns the text of a kubeconfig file for whoever has a token.
    pub fn kubeconfig_for(&self, token: &str, namespace: &str) -> String {
        let authority = data_encoding::BASE64.encode(self.authority.as_bytes());
        let named = |what: &str, value: serde_json::Value| serde_json::json!([{ "name": "tests", what: value }]);
        let server = format!("https://127.0.0.1:{}", self.port);
        let context = serde_json::json!({ "cluster": "tests", "user": "tests", "namespace": namespace });
        serde_json::json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "tests",
            "clusters": named("cluster", serde_json::json!({ "server": server, "certificate-authority-data": authority })),
            "users": named("user", serde_json::json!({ "token": token })),
            "contexts": named("context", context),
        })
        .to_string()
    }

    fn try_start(runtime: &Runtime) -> Result<Self, String> {
        let directory = process::passing_directory("mlvault-cluster-");
        let [store, peers, port] = free_ports();
        let [token, controllers] = [(); 2].map(|()| data_encoding::HEXLOWER.encode(&new_secret()[..]));
        let mut plane = Self { port, authority: String::new(), token, directory, processes: Mutex::default() };
        plane.run("etcd", &etcd(store, peers));
        fs::write(plane.directory.join("tokens"), tokens(&plane.token, &controllers)).unwrap();
        make_signing_key(&plane.directory.join("signing-key"));
        plane.run("kube-apiserver", &apiserver(store, port));
        plane.authority = plane.await_certificate()?;
        fs::write(plane.kubeconfig(), plane.kubeconfig_for(&plane.token, "default")).unwrap();
        fs::write(plane.directory.join("controllers"), plane.kubeconfig_for(&controllers, "default")).unwrap();
        plane.await_ready(runtime)?;
        plane.run("kube-controller-manager", CONTROLLER_MANAGER);
        Ok(plane)
    }

    /// Starts one of its programs in its directory, where relative paths in flags lead.
    fn run(&self, name: &'static str, flags: &str) {
        let mut command = Command::new(tools().join("kubernetes").join(name));
        command.args(flags.split_whitespace()).current_dir(&self.directory);
        let child = process::start(&command, &self.log(name));
        self.processes
            .lock()
            .unwrap()
            .push((name, child.expect("the control plane: run scripts/setup.sh kubernetes first")));
    }

    /// Starts what binds VolumeSnapshots to their content; the definitions of both must be there.
    pub fn start_snapshot_controller(&self) {
        self.run("snapshot-controller", "--kubeconfig=admin");
    }

    fn log(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.log"))
    }

    /// The API server makes its certificate itself when it starts.
    fn await_certificate(&self) -> Result<String, String> {
        let path = self.directory.join("certificates/apiserver.crt");
        self.until(|_| {
            fs::read_to_string(&path).ok().filter(|text| text.trim_end().ends_with("-----END CERTIFICATE-----"))
        })
    }

    fn await_ready(&self, runtime: &Runtime) -> Result<(), String> {
        let client = client(runtime, &self.kubeconfig());
        self.until(|_| {
            let request = Request::get("/readyz").body(Vec::new()).unwrap();
            runtime.block_on(client.request_text(request)).ok().filter(|text| text == "ok").map(drop)
        })
    }

    fn until<T>(&self, found: impl Fn(&Self) -> Option<T>) -> Result<T, String> {
        let begun = Instant::now();
        loop {
            if let Some(found) = found(self) {
                return Ok(found);
            }
            let mut processes = self.processes.lock().unwrap();
            let ended =
                processes.iter_mut().find_map(|(name, child)| (!matches!(child.try_wait(), Ok(None))).then_some(*name));
            if ended.is_some() || begun.elapsed() > START_MAX {
                let name = ended.unwrap_or("kube-apiserver");
                return Err(format!("{name}:\n{}", fs::read_to_string(self.log(name)).unwrap_or_default()));
            }
            sleep(LOOK);
        }
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        for (_, child) in self.processes.get_mut().unwrap() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Makes a client from a kubeconfig file.
pub fn client(runtime: &Runtime, kubeconfig: &Path) -> Client {
    let file = Kubeconfig::read_from(kubeconfig).unwrap();
    runtime.block_on(async {
        let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.unwrap();
        Client::try_from(config).unwrap()
    })
}

/// Returns ports that nobody listens at now, all of them different.
pub fn free_ports<const COUNT: usize>() -> [u16; COUNT] {
    // All of them are held until the last is found, so that they differ.
    let listeners = [(); COUNT].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

/// Who shows which token, and the groups that RBAC knows them by.
fn tokens(administrator: &str, controllers: &str) -> String {
    format!(
        "{administrator},administrator,administrator,system:masters\n\
         {controllers},system:kube-controller-manager,system:kube-controller-manager\n"
    )
}

/// Makes the key that signs the tokens of ServiceAccounts.
fn make_signing_key(path: &Path) {
    let mut openssl = Command::new("openssl");
    openssl.args(["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out"]).arg(path);
    let output = openssl.output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

fn etcd(port: u16, peers: u16) -> String {
    let (client, peer) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{peers}"));
    format!(
        "--data-dir=etcd --unsafe-no-fsync --log-level=warn --listen-client-urls={client} --advertise-client-urls={client} \
         --listen-peer-urls={peer} --initial-advertise-peer-urls={peer} --initial-cluster=default={peer}"
    )
}

/// The admission plugins are those that are on by default, PodSecurity among them.
fn apiserver(store: u16, port: u16) -> String {
    format!(
        "--etcd-servers=http://127.0.0.1:{store} --bind-address=127.0.0.1 --secure-port={port} --cert-dir=certificates \
         --endpoint-reconciler-type=none --service-cluster-ip-range=10.0.0.0/24 --allow-privileged=true \
         --authorization-mode=RBAC --token-auth-file=tokens --profiling=false \
         --service-account-issuer=https://kubernetes.default.svc --service-account-key-file=signing-key \
         --service-account-signing-key-file=signing-key --kubelet-preferred-address-types=InternalIP"
    )
}

/// All controllers that are on by default but the one that declares nodes without heartbeats dead. It is asked more often than
/// in a cluster, so that tests need not wait.
const CONTROLLER_MANAGER: &str = "--kubeconfig=controllers --leader-elect=false --controllers=*,-node-lifecycle-controller \
    --use-service-account-credentials=true --flex-volume-plugin-dir=plugins \
    --service-account-private-key-file=signing-key --root-ca-file=certificates/apiserver.crt --secure-port=0 --profiling=false \
    --kube-api-qps=500 --kube-api-burst=1000 --pvclaimbinder-sync-period=1s";
