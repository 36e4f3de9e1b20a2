//! `mlvault k8s`, and what other commands do in a cluster.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};
use serde_json::json;

use mlvault::config::deployment;
use mlvault::config::discover::{self, Proposal};
use mlvault::config::file::KubernetesSection;
use mlvault::error::{Error, Result};
use mlvault::hears::Hears;
use mlvault::kubernetes::jobs::{CronJob, change_arguments};
use mlvault::kubernetes::{Cluster, PodEnd, Workload};
use mlvault::procedures::quiesce::{self, Resumed, Served};
use mlvault::procedures::switch_claim::{self, ClaimSwitch};
use mlvault::tracking::TrackingClient;
use mlvault::units::count;

use crate::cli::context::Context;
use crate::cli::deployment::DeploymentArgs;
use crate::cli::outcome::{Outcome, Text};
use crate::cli::progress::printable;
use crate::cli::restore_request::Request;
use crate::cli::{exit, output};

/// Find MLflow in a Kubernetes cluster, run the scheduled jobs now, and start what a restore stopped
#[derive(Parser)]
#[command(after_help = "\
Examples:
  mlvault k8s discover -n mlflow
  mlvault k8s run backup --deployment production
  mlvault k8s resume --deployment production")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Find what runs MLflow in a namespace, and print a configuration for it
    ///
    /// Reads Deployments, StatefulSets, Services and ConfigMaps. No Secret is read: where MLflow has something from one, it is said
    /// which file is to hold which key of it. What could not be found out is said, too.
    ///
    /// Exit code 3 if something could not be found out, 1 if there is no MLflow.
    #[command(after_help = "\
Examples:
  mlvault k8s discover -n mlflow > mlvault.toml
  mlvault k8s discover --context production -n mlflow --json")]
    Discover {
        #[command(flatten)]
        cluster: ClusterArgs,
    },
    /// Start MLflow again as it was before a restore that stopped it
    ///
    /// For a restore that failed or was killed: it leaves MLflow stopped, and has noted on it how many pods it had.
    #[command(after_help = "\
Examples:
  mlvault k8s resume --deployment production
  mlvault k8s resume -n mlflow --workload deployment/mlflow")]
    Resume {
        /// What runs MLflow: deployment/NAME or statefulset/NAME [default: that of the configuration file]
        #[arg(long)]
        workload: Option<String>,
        #[command(flatten)]
        cluster: ClusterArgs,
        #[command(flatten)]
        deployment: DeploymentArgs,
    },
    /// Run a scheduled job now: make a Job from its CronJob, repeat what it says, and end as it ends
    ///
    /// The CronJob is found by the labels that the Helm chart gives it. If this command is interrupted, the Job goes on.
    ///
    /// With `restore --switch-claim NAME`, MLflow is stopped, the Job restores into a new claim of that name, like the one that MLflow
    /// uses, and MLflow is started with it. The old claim stays as it is.
    ///
    /// Exit code: that of the Job's last pod.
    #[command(after_help = "\
Examples:
  mlvault k8s run backup --deployment production
  mlvault k8s run drill -n mlflow --cron-job mlvault-drill
  mlvault k8s run restore --deployment production --switch-claim mlflow-data-2 -- --snapshot 2026-11-20")]
    Run {
        /// The job
        job: JobArg,
        /// More arguments for the Job's command
        #[arg(last = true, value_name = "ARGUMENT")]
        arguments: Vec<String>,
        /// Of a restore: stop MLflow, restore into a new claim of this name, and start MLflow with it
        #[arg(long, value_name = "NAME")]
        switch_claim: Option<String>,
        /// The CronJob, if it has not the labels of the chart
        #[arg(long, value_name = "NAME")]
        cron_job: Option<String>,
        #[command(flatten)]
        cluster: ClusterArgs,
        #[command(flatten)]
        deployment: DeploymentArgs,
    },
}

/// What is scheduled.
#[derive(Clone, Copy, ValueEnum)]
enum JobArg {
    /// The backup of a deployment
    Backup,
    /// The drill of a deployment
    Drill,
    /// Forgetting snapshots of a deployment
    Forget,
    /// Pruning the repository
    Prune,
    /// The check of the repository
    Check,
    /// The restore of a deployment, which no schedule starts
    Restore,
}

/// A job that is to run now.
struct WantedJob {
    job: JobArg,
    cron_job: Option<String>,
    arguments: Vec<String>,
    switch_claim: Option<String>,
}

impl JobArg {
    /// Returns whether there is one for each deployment, and not one for the repository.
    fn is_of_deployment(self) -> bool {
        matches!(self, Self::Backup | Self::Drill | Self::Forget | Self::Restore)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Backup => "backup",
            Self::Drill => "drill",
            Self::Forget => "forget",
            Self::Prune => "prune",
            Self::Check => "check",
            Self::Restore => "restore",
        }
    }
}

/// How a cluster is reached.
#[derive(clap::Args)]
#[command(next_help_heading = "Kubernetes cluster")]
struct ClusterArgs {
    /// The kubeconfig file [default: as kubectl finds it; within a pod, its ServiceAccount]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// A context of that file [default: its current one]
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// The namespace [default: that of the context or the pod]
    #[arg(long, short, value_name = "NAME")]
    namespace: Option<String>,
}

impl ClusterArgs {
    fn section(&self) -> KubernetesSection {
        let (kubeconfig, context) = (self.kubeconfig.clone(), self.context.clone());
        KubernetesSection { kubeconfig, context, namespace: self.namespace.clone(), ..KubernetesSection::default() }
    }
}

/// Runs the command.
pub fn run(context: &Context, args: Args) -> Result<Outcome> {
    match args.command {
        Command::Discover { cluster } => discover(context, &cluster.section()),
        Command::Resume { workload, cluster, deployment } => {
            resume(context, KubernetesSection { workload, ..cluster.section() }, &deployment)
        }
        Command::Run { job, arguments, switch_claim, cron_job, cluster, deployment } => {
            let wanted = WantedJob { job, cron_job, arguments, switch_claim };
            run_job(context, &wanted, cluster.section(), &deployment)
        }
    }
}

fn discover(context: &Context, section: &KubernetesSection) -> Result<Outcome> {
    let cluster = Cluster::connect(&section.cluster(), &context.hears())?;
    let servers = cluster.find_servers()?;
    if servers.is_empty() {
        let text = format!("Nothing in the namespace {:?} looks like a tracking server of MLflow", cluster.namespace());
        return Err(Error::NotFound(text));
    }
    let proposals = discover::propose(&servers, cluster.namespace());
    let has_gaps = proposals.iter().any(|proposal| !proposal.gaps.is_empty());
    let code = if has_gaps { exit::INCOMPLETE } else { exit::COMPLETE };
    let document = json!({ "namespace": cluster.namespace(), "deployments": proposals });
    Ok(Outcome::new(code, document, proposals_text(&proposals)))
}

/// The text is a configuration file: what is no part of it is a comment.
fn proposals_text(proposals: &[Proposal]) -> Text {
    let mut text = Text::default();
    for (number, proposal) in proposals.iter().enumerate() {
        if number > 0 {
            text.line("");
        }
        text.line(format!("# {}", printable(&proposal.workload)));
        for gap in &proposal.gaps {
            text.line(format!("# NOT FOUND OUT: {}", printable(gap)));
        }
        for secret in &proposal.secrets {
            text.line(format!("# {} is to hold the key {} of the Secret {}", secret.file, secret.key, secret.secret));
        }
        text.extend(proposal.configuration.lines().map(printable));
    }
    text
}

fn resume(context: &Context, typed: KubernetesSection, args: &DeploymentArgs) -> Result<Outcome> {
    let section = section_of(context, typed, args)?;
    let workload = workload_of(&section)?;
    let hears = context.hears();
    let cluster = Cluster::connect(&section.cluster(), &hears)?;
    // Without a server to ask, its pods say whether they answer.
    let target = if args.is_meant() { args.resolve(context).ok() } else { None };
    let server =
        target.and_then(|target| target.tracking).map(|options| TrackingClient::connect(&options)).transpose()?;
    let served = Served { cluster: &cluster, workload: &workload, server: server.as_ref(), hears: &hears };
    let resumed = quiesce::resume(&served)?;
    let line = resumed.as_ref().map_or_else(|| format!("{workload} was not stopped by mlvault"), resumed_line);
    let is_well = resumed.as_ref().is_none_or(|resumed| resumed.healthy != Some(false));
    let code = if is_well { exit::COMPLETE } else { exit::INCOMPLETE };
    Ok(Outcome::new(code, json!({ "workload": workload.to_string(), "resumed": resumed }), line))
}

fn run_job(context: &Context, wanted: &WantedJob, typed: KubernetesSection, args: &DeploymentArgs) -> Result<Outcome> {
    let section = section_of(context, typed, args)?;
    let cluster = Cluster::connect(&section.cluster(), &context.hears())?;
    let deployment = args.deployment.as_deref().filter(|_| wanted.job.is_of_deployment());
    let cron_job = cluster.cron_job(wanted.cron_job.as_deref(), wanted.job.name(), deployment)?;
    let run = JobRun { context, cluster, section, cron_job, wanted };
    match &wanted.switch_claim {
        Some(claim) => run.on_claim(claim),
        None => run.now(),
    }
}

/// A Job that is about to run.
struct JobRun<'a> {
    context: &'a Context,
    cluster: Cluster,
    section: KubernetesSection,
    cron_job: CronJob,
    wanted: &'a WantedJob,
}

impl JobRun<'_> {
    /// Repeats a line of its pod.
    fn hear(&self, line: &str) -> Result<()> {
        if !self.context.json() {
            return output::print_line(&printable(line));
        }
        self.context.monitor().note(line);
        Ok(())
    }

    fn now(&self) -> Result<Outcome> {
        let monitor = self.context.monitor();
        let add = |given: &mut Vec<String>| given.extend_from_slice(&self.wanted.arguments);
        let name = self.cluster.start_job(&self.cron_job, |job| change_arguments(job, add))?;
        monitor.note(&format!("The Job {name} has begun"));
        let end = self.cluster.follow_job(&name, &mut |line| self.hear(line)).inspect_err(|_| {
            monitor.warning(&format!("The Job {name} may go on: `kubectl logs --follow job/{name}`"));
        })?;
        let PodEnd { name: pod, code, reason } = &end;
        let document = json!({ "job": name, "pod": pod, "exit_code": code, "reason": reason, "resumed": null });
        Ok(match code {
            Some(code) => Outcome::new(exit::of_process(*code), document, Text::default()),
            None => Outcome::failed(end.failure(&name), document, Text::default()),
        })
    }

    /// Restores into a new claim, and lets MLflow use that one.
    fn on_claim(&self, claim: &str) -> Result<Outcome> {
        if !matches!(self.wanted.job, JobArg::Restore) {
            return Err(Error::Invalid("--switch-claim is for `k8s run restore`".to_owned()));
        }
        let (from, mount) = self.section.claim_and_mount("--switch-claim")?;
        let switch = ClaimSwitch { from, to: claim.to_owned(), mount };
        let (workload, hears) = (workload_of(&self.section)?, self.context.hears());
        let served = Served { cluster: &self.cluster, workload: &workload, server: None, hears: &hears };
        let mut hear = |line: &str| self.hear(line);
        let (end, resumed) = switch_claim::run(&served, &self.cron_job, &switch, &self.wanted.arguments, &mut hear)?;
        let line = format!("{}, with the claim {claim}; {} is as it was", resumed_line(&resumed), switch.from);
        let document = json!({
            "job": null, "pod": end.name, "exit_code": end.code, "reason": end.reason, "resumed": resumed,
        });
        Ok(Outcome::new(end.code.map_or(exit::FAILED, exit::of_process), document, line))
    }
}

/// Returns what the arguments say, and where they say nothing, the configuration file.
fn section_of(context: &Context, typed: KubernetesSection, args: &DeploymentArgs) -> Result<KubernetesSection> {
    let mut flags = args.flags(context)?;
    flags.section.kubernetes = typed;
    Ok(deployment::resolve_kubernetes(context.file(), &flags))
}

fn workload_of(section: &KubernetesSection) -> Result<Workload> {
    section.workload()?.ok_or_else(|| {
        Error::Invalid(
            "It is not said what runs MLflow: name it, or set `workload` in [deployment.NAME.kubernetes]; `mlvault k8s discover` \
             finds it"
                .to_owned(),
        )
    })
}

/// Says how MLflow was started again.
pub fn resumed_line(resumed: &Resumed) -> String {
    let Resumed { workload, replicas, healthy } = resumed;
    let health = match healthy {
        Some(true) => ", and its server is well",
        Some(false) => ", and its server does NOT answer",
        None => "",
    };
    format!("{workload} runs again with {}{health}", count(u64::from(*replicas), "pod"))
}

/// What runs the target of a restore.
pub struct InCluster {
    cluster: Cluster,
    workload: Workload,
    server: Option<TrackingClient>,
}

impl InCluster {
    /// Finds out what runs it: what is named, or what the configuration says.
    pub fn of(request: &Request<'_>, named: &str) -> Result<Self> {
        let named = Some(named).filter(|name| !name.is_empty()).map(str::to_owned);
        let section = KubernetesSection { workload: named, ..KubernetesSection::default() }.over(&request.kubernetes);
        let hears = request.context.hears();
        let server = request.target.tracking.as_ref().map(TrackingClient::connect).transpose()?;
        Ok(Self {
            cluster: Cluster::connect(&section.cluster(), &hears)?,
            workload: workload_of(&section)?,
            server: server.map(|server| server.heard_by(&hears)),
        })
    }

    /// Returns what is stopped and started.
    pub fn served<'a>(&'a self, hears: &'a Hears) -> Served<'a> {
        Served { cluster: &self.cluster, workload: &self.workload, server: self.server.as_ref(), hears }
    }
}
