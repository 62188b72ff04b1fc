package engine

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"dkms-kernel-install/internal/sandbox"
	"dkms-kernel-install/internal/tree"
)

// homes hold people's files; secrets no build has a reason to read.
var homes = []string{"/root", "/home"}
var secrets = strings.Fields(`/run /etc/shadow /etc/shadow- /etc/gshadow /etc/gshadow- /etc/ssh /etc/ssl/private
	/etc/pki/tls/private /etc/pki/akmods/private /etc/wireguard /etc/NetworkManager/system-connections /etc/krb5.keytab
	/etc/secureboot /usr/share/secureboot /var/lib/sbctl /var/lib/shim-signed/mok /var/mail /var/spool`)

const (
	buildProcesses = 2048     // at once, of one build
	buildFileSize  = 8 << 30  // bytes of one file
	buildOutput    = 64 << 20 // bytes of what one command prints
)

// features are what this machine allows for builds that run as user; what is
// missing is said once.
func (e *Engine) features(user *sandbox.User) sandbox.Features {
	f := sandbox.Probe(user)
	if len(f.Missing) > 0 && !e.unconfined {
		e.unconfined = true
		e.Events.Note("warning: builds are less confined than they should be, this machine denies them " + strings.Join(f.Missing, ", "))
	}
	return f
}

// world is what a build of id for k finds of the machine; nil where framework.conf
// says that it finds all.
func (e *Engine) world(id tree.ID, k tree.Target) *sandbox.World {
	allowed := e.Settings.Allowed(id.Name)
	if allowed.All {
		return nil
	}
	e.eventMu.Lock()
	defer e.eventMu.Unlock()
	w := &sandbox.World{Network: allowed.Network, Processes: buildProcesses, FileSize: buildFileSize, Output: buildOutput}
	if !allowed.Root && os.Geteuid() == 0 {
		w.User = e.buildUser()
	}
	for _, dir := range allowed.Write {
		w.Writable = append(w.Writable, sandbox.Bind{From: dir, To: dir})
	}
	w.Features = e.features(w.User)
	if !w.Features.Drop {
		w.User = nil
	}
	if !w.Features.Mounts {
		return w
	}
	kern := e.Kernel(k)
	w.Hide = append(w.Hide, secrets...)
	if !allowed.Home {
		w.Hide = append(w.Hide, homes...)
	}
	key, _, _ := e.signingKey(kern)
	for _, file := range []string{key, filepath.Join(e.Tree.Dir, "mok.key"), filepath.Join(kern.SourceDir, "certs/signing_key.pem")} {
		if filepath.IsAbs(file) {
			w.Hide = append(w.Hide, file)
		}
	}
	// What a build needs may be in somebody's home, or in /tmp.
	w.Show = append(filepath.SplitList(os.Getenv("PATH")), e.Settings.DkmsTree, e.Settings.InstallTree, e.Settings.SourceTree, e.Settings.EtcDir, kern.SourceDir)
	links := []string{kern.SourceDir, filepath.Join(kern.SourceDir, "source"), filepath.Join(kern.Dir, "source"), e.Tree.SourceDir(id)}
	if allowed.Network {
		links = append(links, "/etc/resolv.conf") // often one to /run
	}
	for _, link := range links {
		if path, err := filepath.EvalSymlinks(link); err == nil {
			w.Show = append(w.Show, path)
		}
	}
	dir := e.Tree.PackageDir(id)
	entries, _ := os.ReadDir(dir) // without it, nothing of it is seen
	for _, entry := range entries {
		if name := entry.Name(); name != "build" && name != k.Release && !tree.IsTemp(name) {
			w.Keep = append(w.Keep, name)
		}
	}
	w.Over = dir
	return w
}

// buildUser is who builds run as; nil where there is nobody.
func (e *Engine) buildUser() *sandbox.User {
	names := []string{"dkms-build", "nobody"}
	if e.Settings.BuildUser != "" {
		names = []string{e.Settings.BuildUser}
	}
	user, err := sandbox.LookupUser(names...)
	if err != nil && !e.unconfined {
		e.unconfined = true
		e.Events.Note(fmt.Sprintf("warning: builds run as root: %v", err))
	}
	return user
}
