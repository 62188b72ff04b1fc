// SPDX-License-Identifier: GPL-2.0-or-later

package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

var imagesSet = sync.OnceValue(func() made { return mkroot("images") })

// enter makes the root $1 that of a machine in which builders of images work, and runs the script $2 there. They want
// to make namespaces, which a chroot may not, and a cgroup file system of version 2.
const enter = `
mount --make-rprivate /
cd "$1"
mount -t proc proc proc
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
mount -t cgroup2 cgroup2 sys/fs/cgroup
mkdir -p dev/pts dev/shm .old
mount -t devpts -o newinstance,ptmxmode=666 devpts dev/pts
ln -sf pts/ptmx dev/ptmx
mknod -m 666 dev/tty c 5 0
mknod -m 666 dev/fuse c 10 229
mkdir -p etc/containers # limits may not be raised
printf '[containers]\ndefault_ulimits=["nofile=%s:%s","nproc=%s:%s"]\n' $(ulimit -Hn) $(ulimit -Hn) $(ulimit -Hu) $(ulimit -Hu) >etc/containers/containers.conf
printf '[storage]\ndriver="vfs"\nrunroot="/run/containers"\ngraphroot="/var/lib/containers/storage"\n' >etc/containers/storage.conf # an overlay has no overlay
pivot_root . .old
umount -l /.old
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root bash -exc "$2"
`

// recipe is what is done in an image. Its packages are in /opt/in.
const recipe = `
echo 'deb [trusted=yes] file:/opt/in ./' >/etc/apt/sources.list
apt-get -q -o APT::Sandbox::User=root update
DEBIAN_FRONTEND=noninteractive apt-get -q -y -o APT::Sandbox::User=root install --no-install-recommends /opt/in/dkms-kernel-install.deb acpi-call-dkms
`

// builders are ways to build an image from /base.tar by the recipe in /opt/in. Each leaves its files in the directory $out.
var builders = map[string]string{
	"chroot": `mkdir $out; tar -C $out -xf /base.tar; mkdir -p $out/proc; mount -t proc proc $out/proc
		mknod -m 666 $out/dev/null c 1 3; chroot $out sh -ex /opt/in/recipe`,
	"systemd-nspawn": `mkdir $out; tar -C $out -xf /base.tar
		systemd-nspawn -q --register=no --keep-unit --resolv-conf=off -D $out sh -ex /opt/in/recipe`,
	"buildah":        `isolation=oci; ` + buildah,
	"buildah chroot": `isolation=chroot; ` + buildah,
	"buildah rootless": `
		useradd -m u
		mkdir -p /run/user/u $out; chown u /run/user/u $out
		export out
		setpriv --reuid u --regid u --init-groups env HOME=/home/u XDG_RUNTIME_DIR=/run/user/u isolation=oci buildah unshare bash -exc '` + buildah + `'`,
}

const buildah = `
	mkdir -p $out
	c=$(buildah from scratch)
	m=$(buildah mount $c)
	tar -C $m -xf /base.tar
	buildah run --isolation $isolation --network host $c -- sh -ex /opt/in/recipe
	tar -C $m -c var/lib usr/lib/modules etc/dkms | tar -C $out -x
	test ! -e $m/var/cache/dkms-kernel-install
	buildah rm $c`

// TestImages has builders of images install the deb and a package of modules. What is in an image is the same each time
// and with each of them: the modules of two kernels, which are not this machine's, without key, caches and logs. Without
// DKMS_TEST_ALL it has one of them make one.
func TestImages(t *testing.T) {
	t.Parallel()
	builders, times, set := builders, 2, imagesSet
	if os.Getenv("DKMS_TEST_ALL") == "" {
		builders, times, set = map[string]string{"chroot": builders["chroot"]}, 1, coreSet
	}
	base := NewRoot(t)
	base.MustRun("rm", "/etc/dkms/framework.conf.d/machine.conf")
	base.Sh("mkdir /opt/in && cp /opt/repo/acpi-call-dkms.deb /opt/repo/dkms.deb /opt/in && cd /opt/in && dpkg-scanpackages -m . >Packages")
	base.copyIn(makePackage(t, "deb"), "/opt/in/dkms-kernel-install.deb")
	base.Write("/opt/in/recipe", recipe, 0o644)
	tarball := filepath.Join(t.TempDir(), "base.tar")
	tar := exec.Command("tar", "-C", base.Dir, "--one-file-system", "--exclude=./opt/repo", "--exclude=./boot", "--exclude=./usr/share/doc", "--exclude=./usr/share/locale", "--exclude=./usr/lib/python3*", "-cf", tarball, ".")
	if out, err := tar.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var first map[string]string
	for name, script := range builders {
		t.Run(name, func(t *testing.T) {
			for range times {
				r := newRoot(t, set)
				r.Write("/base.tar", "", 0o644)
				r.check(unix.Mount(tarball, filepath.Join(r.Dir, "base.tar"), "", unix.MS_BIND, ""))
				r.Write("/etc/machine-id", strings.Repeat("0123456789abcdef", 2)+"\n", 0o444)
				cmd := exec.CommandContext(t.Context(), "unshare", "--mount", "--pid", "--ipc", "--uts", "--fork", "bash", "-ec", enter, "enter", r.Dir, "out=/out\n"+script)
				out, err := cmd.CombinedOutput()
				if err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
				files := imageFiles(t, filepath.Join(r.Dir, "out"))
				checkImage(t, files, 2)
				if t.Failed() {
					t.Logf("%s", out)
				}
				if first == nil {
					first = files
				}
				if diff := cmp.Diff(first, files); diff != "" {
					t.Errorf("it makes another image: %s", diff)
				}
			}
		})
	}
}
