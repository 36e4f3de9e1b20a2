//! One pod, from the moment when the node has it to its end. A thread of its own looks at it again and again.
//!
//! What must stay true: containers start only when all volumes are there and the init containers have completed, one after the
//! other. What is told last is how the containers ended.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container as Specification, Pod, PodSpec, Service, VolumeMount};
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};

use super::container::{Container, Restart, State};
use super::sandbox::{Mount, Process, Sandbox};
use super::status::{DEADLINE_EXCEEDED, Told};
use super::{Host, Stop, environment, image, volumes};

/// How often a pod is looked at.
const TICK: Duration = Duration::from_millis(20);
/// How often is looked again for what a pod lacks.
const LACK_TICK: Duration = Duration::from_millis(300);
/// Time to end for a pod whose deadline has passed.
const GRACE: Duration = Duration::from_secs(30);

/// What containers of a pod are started with.
struct Setting<'a> {
    host: &'a Host,
    pod: &'a Pod,
    spec: &'a PodSpec,
    directory: PathBuf,
    volumes: HashMap<String, PathBuf>,
}

/// A pod that is run.
struct Run<'a> {
    setting: Setting<'a>,
    stop: &'a Stop,
    started: Timestamp,
    inits: Vec<Container>,
    containers: Vec<Container>,
    /// Why it failed as a whole.
    reason: Option<&'static str>,
    /// What it waits for.
    lack: String,
}

/// Runs a pod to its end.
pub fn run(host: &Host, pod: &Pod, stop: &Stop) {
    let mut run = Run::new(host, pod, stop);
    run.tell();
    if run.make_volumes() && run.initialize() {
        run.run(Group::Main);
    }
    run.tell();
    let _ = fs::remove_dir_all(run.setting.directory.join("volumes"));
}

/// Some containers of a pod.
#[derive(Debug, Clone, Copy)]
enum Group {
    Init(usize),
    Main,
}

impl<'a> Run<'a> {
    fn new(host: &'a Host, pod: &'a Pod, stop: &'a Stop) -> Self {
        let spec = pod.spec.as_ref().unwrap();
        let restart = match spec.restart_policy.as_deref() {
            Some("Never") => Restart::Never,
            Some("OnFailure") => Restart::OnFailure,
            _ => Restart::Always,
        };
        // An init container that completed is not run again.
        let of_init = if restart == Restart::Never { Restart::Never } else { Restart::OnFailure };
        let made = |specs: &[Specification], restart| specs.iter().map(|it| Container::new(it, restart)).collect();
        let directory = host.directory.join(pod.uid().unwrap());
        Self {
            setting: Setting { host, pod, spec, directory, volumes: HashMap::new() },
            stop,
            started: Timestamp::now(),
            inits: made(spec.init_containers.as_deref().unwrap_or_default(), of_init),
            containers: made(&spec.containers, restart),
            reason: None,
            lack: String::new(),
        }
    }

    /// Makes the volumes as soon as that is possible; false if the pod ends before.
    fn make_volumes(&mut self) -> bool {
        let directory = self.setting.directory.join("volumes");
        while self.grace().is_none() {
            match volumes::make(self.setting.host, self.setting.pod, &directory) {
                Ok(made) => {
                    self.setting.volumes = made;
                    self.lack.clear();
                    return true;
                }
                Err(lack) if lack == self.lack => {}
                Err(lack) => {
                    self.lack = lack;
                    self.tell();
                }
            }
            sleep(LACK_TICK);
        }
        // What never ran ends all the same.
        self.step(Group::Main);
        false
    }

    /// Runs the init containers one after the other; false if the pod ends with one of them.
    fn initialize(&mut self) -> bool {
        for at in 0..self.inits.len() {
            self.run(Group::Init(at));
            if self.grace().is_some() {
                self.step(Group::Main);
                return false;
            }
            if self.inits[at].end().is_some_and(|end| end.code != 0) {
                return false;
            }
        }
        true
    }

    /// Runs containers until all of them have ended for good.
    fn run(&mut self, group: Group) {
        loop {
            if self.step(group) {
                self.tell();
            }
            if self.group(group).iter().all(|it| it.end().is_some()) {
                return;
            }
            sleep(TICK);
        }
    }

    /// Does what is due, and returns whether there are news.
    fn step(&mut self, group: Group) -> bool {
        let grace = self.grace();
        let (setting, containers) = match group {
            Group::Init(at) => (&self.setting, &mut self.inits[at..=at]),
            Group::Main => (&self.setting, &mut self.containers[..]),
        };
        let start = |spec: &Specification, restarts: u32| setting.start(spec, restarts);
        let mut has_news = false;
        for container in containers {
            has_news |= container.step(&start, grace);
            if !matches!(container.state, State::Running { .. }) {
                setting.host.logs.complete(setting.pod, &container.spec.name);
            }
        }
        has_news
    }

    fn group(&self, group: Group) -> &[Container] {
        match group {
            Group::Init(at) => &self.inits[at..=at],
            Group::Main => &self.containers,
        }
    }

    /// Returns how long the containers may still take, if the pod is to end.
    fn grace(&mut self) -> Option<Duration> {
        let limit = self.setting.spec.active_deadline_seconds;
        let ran = Timestamp::now().duration_since(self.started);
        if limit.is_some_and(|seconds| ran.as_secs() >= seconds) {
            self.reason = Some(DEADLINE_EXCEEDED);
        }
        self.stop.grace().or_else(|| self.reason.map(|_| GRACE))
    }

    fn tell(&self) {
        let Self { inits, containers, started, reason, lack, .. } = self;
        let patch = Told { inits, containers, started: *started, reason: *reason, lack }.patch();
        let (host, pod) = (self.setting.host, self.setting.pod);
        let api: Api<Pod> = host.api(&pod.namespace().unwrap());
        // A pod that was deleted by force has nobody left to tell.
        let _ = host.wait(api.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Strategic(patch)));
    }
}

impl Setting<'_> {
    fn start(&self, container: &Specification, restarts: u32) -> Result<Process, String> {
        let sandbox = self.sandbox(container, restarts)?;
        self.host.logs.begin(self.pod, &container.name, &sandbox.log);
        sandbox.start().map_err(|error| error.to_string())
    }

    fn sandbox(&self, container: &Specification, restarts: u32) -> Result<Sandbox, String> {
        let environment = environment::of(self.host, self.pod, container)?;
        let image = container.image.as_deref().unwrap_or_default();
        let expanded =
            |words: &[String]| words.iter().map(|word| environment::expand(word, &environment)).collect::<Vec<_>>();
        let mut command = container.command.as_deref().map_or_else(|| image::entry_point(image), expanded);
        command.extend(expanded(container.args.as_deref().unwrap_or_default()));
        let (user, group) = self.user(container)?;
        let directory = self.directory.join(&container.name);
        fs::create_dir_all(&directory).map_err(|error| error.to_string())?;
        let security = container.security_context.as_ref();
        Ok(Sandbox {
            log: directory.join(format!("{restarts}.log")),
            directory,
            hostname: self.pod.name_any(),
            hosts: self.hosts(),
            user,
            group,
            is_root_read_only: security.and_then(|it| it.read_only_root_filesystem) == Some(true),
            mounts: self.mounts(container, &environment)?,
            working_directory: container.working_dir.clone().unwrap_or_else(|| "/".to_owned()),
            environment,
            command,
        })
    }

    /// Returns the user and the group of a container. What must not be root is not started as root.
    fn user(&self, container: &Specification) -> Result<(i64, i64), String> {
        let (of_pod, own) = (self.spec.security_context.as_ref(), container.security_context.as_ref());
        let user = own.and_then(|it| it.run_as_user).or_else(|| of_pod?.run_as_user);
        let user = user.unwrap_or_else(|| image::user(container.image.as_deref().unwrap_or_default()));
        let group = own.and_then(|it| it.run_as_group).or_else(|| of_pod?.run_as_group).unwrap_or(user);
        let is_not_root = own.and_then(|it| it.run_as_non_root).or_else(|| of_pod?.run_as_non_root);
        match (is_not_root, user) {
            (Some(true), 0) => Err("container has runAsNonRoot and image will run as root".to_owned()),
            _ => Ok((user, group)),
        }
    }

    fn mounts(&self, container: &Specification, environment: &[(String, String)]) -> Result<Vec<Mount>, String> {
        let mount = |mount: &VolumeMount| {
            let volume = self.volumes.get(&mount.name).ok_or_else(|| format!("no volume {}", mount.name))?;
            let inner = mount.sub_path_expr.as_ref().map(|path| environment::expand(path, environment));
            let inner = inner.or_else(|| mount.sub_path.clone());
            let from = inner.map_or_else(|| Ok(volume.clone()), |inner| sub_path(volume, &inner))?;
            let is_read_only = mount.read_only == Some(true) || self.is_never_written(&mount.name);
            Ok(Mount { from, to: mount.mount_path.clone(), is_read_only })
        };
        let mut mounts: Vec<Mount> =
            container.volume_mounts.iter().flatten().map(mount).collect::<Result<_, String>>()?;
        // What is mounted below another mount comes after it.
        mounts.sort_by_key(|mount| mount.to.len());
        Ok(mounts)
    }

    /// Returns whether a volume is of a kind that no container can write.
    fn is_never_written(&self, name: &str) -> bool {
        let volume = self.spec.volumes.iter().flatten().find(|volume| volume.name == name);
        volume.is_some_and(|it| {
            it.secret.is_some() || it.config_map.is_some() || it.projected.is_some() || it.downward_api.is_some()
        })
    }

    /// Returns the names by which the Services of all namespaces are found: on this host, where all containers serve.
    fn hosts(&self) -> String {
        let services: Api<Service> = Api::all(self.host.client.clone());
        let found = self.host.wait(services.list(&ListParams::default())).map(|list| list.items).unwrap_or_default();
        let own = self.pod.namespace();
        let line = |service: &Service| {
            let (name, namespace) = (service.name_any(), service.namespace().unwrap_or_default());
            let short = if Some(&namespace) == own.as_ref() { format!("{name} ") } else { String::new() };
            format!("127.0.0.1 {short}{name}.{namespace} {name}.{namespace}.svc {name}.{namespace}.svc.cluster.local\n")
        };
        "127.0.0.1 localhost\n".to_owned() + &found.iter().map(line).collect::<String>()
    }
}

/// Returns a place in a volume, which is made if it is not there.
fn sub_path(volume: &Path, inner: &str) -> Result<PathBuf, String> {
    let place = volume.join(inner);
    if !place.exists() {
        fs::create_dir_all(&place).map_err(|error| error.to_string())?;
    }
    Ok(place)
}
