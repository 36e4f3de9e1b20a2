// The control plane of the tests: etcd, kube-apiserver and kube-controller-manager in one binary, so that what they
// share is compiled and linked once. Links to it carry their names, and the name by which it is called says which it is.
//
// What must stay true: nothing of ours is in it but the choice. The flags are their own, so that the tests can run
// somebody else's binaries as well.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllers "k8s.io/kubernetes/cmd/kube-controller-manager/app"
)

func main() {
	switch name := filepath.Base(os.Args[0]); name {
	case "etcd":
		etcdmain.Main(os.Args)
	case "kube-apiserver":
		os.Exit(cli.Run(apiserver.NewAPIServerCommand()))
	case "kube-controller-manager":
		os.Exit(cli.Run(controllers.NewControllerManagerCommand()))
	default:
		fmt.Fprintf(os.Stderr, "%s: call it as etcd, kube-apiserver or kube-controller-manager\n", name)
		os.Exit(2)
	}
}
