# fish completion for dkms
# Made by "make docs" from the program's own description of its command line; do not edit.

function __dkms_list --argument-names kind
    switch $kind
        case kernel
            for path in /lib/modules/*/
                path basename $path
            end
        case package source name version
            for path in /var/lib/dkms/*/*/source
                set -l parts (string split / $path)
                switch $kind
                    case name
                        echo $parts[-3]
                    case version
                        echo $parts[-2]
                    case '*'
                        echo $parts[-3]/$parts[-2]
                end
            end
        case arch
            uname -m
    end
end

complete -c dkms -f
complete -c dkms -s h -l help -d 'Show context-sensitive help.'
complete -c dkms -s m -l module -x -a '(__dkms_list name)' -d 'Name of the package, or NAME/VERSION.'
complete -c dkms -s v -l moduleversion -x -a '(__dkms_list version)' -d 'Its version.'
complete -c dkms -s k -l kernelver -x -a '(__dkms_list kernel)' -d 'Kernel release; may be repeated. Default: the running kernel.'
complete -c dkms -s a -l arch -x -a '(__dkms_list arch)' -d 'Architecture, in the order of -k. Default: this machine\'s.'
complete -c dkms -l all -d 'All kernels that the package has builds for (uninstall, unbuild, remove, mktarball).'
complete -c dkms -l force -d 'Do it again even if it is done; install modules that are not newer than the kernel\'s; overwrite (ldtarball).'
complete -c dkms -l force-version-override -d 'Install modules that are not newer than the kernel\'s.'
complete -c dkms -l no-depmod -d 'Do not run depmod.'
complete -c dkms -l modprobe-on-install -d 'Load the modules after they are installed.'
complete -c dkms -l symlink-modules -d 'Place links to the modules in the tree instead of copies.'
complete -c dkms -l templatekernel -x -a '(__dkms_list kernel)' -d 'match: the kernel that has the packages installed already.'
complete -c dkms -l archive -r -F -d 'mktarball, ldtarball: the archive.'
complete -c dkms -l source-only -d 'mktarball: leave builds out.'
complete -c dkms -l binaries-only -d 'mktarball: leave the source out.'
complete -c dkms -l rpm_safe_upgrade -d 'add, remove: called by an RPM package that replaces itself.'
complete -c dkms -s c -l conf -r -F -d 'add: the dkms.conf to use instead of the source\'s own.'
complete -c dkms -l directive -x -d 'Set a directive of dkms.conf; may be repeated.'
complete -c dkms -l config -r -F -d 'The kernel\'s configuration.'
complete -c dkms -l kernelsourcedir -x -a '(__fish_complete_directories)' -d 'The kernel\'s headers.'
complete -c dkms -l dkmstree -x -a '(__fish_complete_directories)' -d 'Instead of /var/lib/dkms.'
complete -c dkms -l sourcetree -x -a '(__fish_complete_directories)' -d 'Instead of /usr/src.'
complete -c dkms -l installtree -x -a '(__fish_complete_directories)' -d 'Instead of /lib/modules.'
complete -c dkms -s j -l jobs -x -d 'Number of jobs at a time; 0 means no limit.'
complete -c dkms -s q -l quiet -d 'Print only failures and warnings.'
complete -c dkms -l verbose -d 'Print more.'
complete -c dkms -s V -l version -d 'Print the version of dkms whose interface this is.'
complete -c dkms -n 'not __fish_seen_subcommand_from add build install uninstall unbuild remove status match autoinstall mktarball ldtarball generate_mok kernel_preinst kernel_postinst kernel_prerm' -a add -d 'register a package'
complete -c dkms -n 'not __fish_seen_subcommand_from add build install uninstall unbuild remove status match autoinstall mktarball ldtarball generate_mok kernel_preinst kernel_postinst kernel_prerm' -a build -d 'compile a package and keep its modules in the tree'
complete -c dkms -n 'not __fish_seen_subcommand_from add build install uninstall unbuild remove status match autoinstall mktarball ldtarball generate_mok kernel_preinst kernel_postinst kernel_prerm' -a install -d 'put the modules of a package into a kernel\'s directory'
complete -c dkms -n 'not __fish_seen_subcommand_from add build install uninstall unbuild remove status match autoinstall mktarball ldtarball generate_mok kernel_preinst kernel_postinst kernel_prerm' -a uninstall -d 'take modules out of a kernel\'s directory'
complete -c dkms -n 'not __fish_seen_subcommand_from add build install uninstall unbuild remove status match autoinstall mktarball ldtarball generate_mok kernel_preinst kernel_postinst kernel_prerm' -a unbuild -d 'uninstall, and delete the build'
complete -c dkms -n 'not __fish_seen_subcommand_from add build install uninstall unbuild remove status match autoinstall mktarball ldtarball generate_mok kernel_preinst kernel_postinst kernel_prerm' -a remove -d 'delete builds, and unregister the package with the last one'
complete -c dkms -n 'not __fish_seen_subcommand_from add build install uninstall unbuild remove status match autoinstall mktarball ldtarball generate_mok kernel_preinst kernel_postinst kernel_prerm' -a status -d 'show what is registered, built and installed'
complete -c dkms -n 'not __fish_seen_subcommand_from add build install uninstall unbuild remove status match autoinstall mktarball ldtarball generate_mok kernel_preinst kernel_postinst kernel_prerm' -a match -d 'install what another kernel has'
complete -c dkms -n 'not __fish_seen_subcommand_from add build install uninstall unbuild remove status match autoinstall mktarball ldtarball generate_mok kernel_preinst kernel_postinst kernel_prerm' -a autoinstall -d 'install all packages that want automatic installation'
complete -c dkms -n 'not __fish_seen_subcommand_from add build install uninstall unbuild remove status match autoinstall mktarball ldtarball generate_mok kernel_preinst kernel_postinst kernel_prerm' -a mktarball -d 'write a package and its builds to an archive'
complete -c dkms -n 'not __fish_seen_subcommand_from add build install uninstall unbuild remove status match autoinstall mktarball ldtarball generate_mok kernel_preinst kernel_postinst kernel_prerm' -a ldtarball -d 'load a package and its builds from an archive'
complete -c dkms -n 'not __fish_seen_subcommand_from add build install uninstall unbuild remove status match autoinstall mktarball ldtarball generate_mok kernel_preinst kernel_postinst kernel_prerm' -a generate_mok -d 'make the signing key'
complete -c dkms -n 'not __fish_seen_subcommand_from add build install uninstall unbuild remove status match autoinstall mktarball ldtarball generate_mok kernel_preinst kernel_postinst kernel_prerm' -a kernel_preinst -d 'for hooks: before a kernel is unpacked'
complete -c dkms -n 'not __fish_seen_subcommand_from add build install uninstall unbuild remove status match autoinstall mktarball ldtarball generate_mok kernel_preinst kernel_postinst kernel_prerm' -a kernel_postinst -d 'for hooks: after a kernel is installed'
complete -c dkms -n 'not __fish_seen_subcommand_from add build install uninstall unbuild remove status match autoinstall mktarball ldtarball generate_mok kernel_preinst kernel_postinst kernel_prerm' -a kernel_prerm -d 'for hooks: before a kernel is removed'
complete -c dkms -n '__fish_seen_subcommand_from add' -a '(__dkms_list source)'
complete -c dkms -n '__fish_seen_subcommand_from add; and string match -qr "^[./]" -- (commandline -ct)' -F
complete -c dkms -n '__fish_seen_subcommand_from build' -a '(__dkms_list source)'
complete -c dkms -n '__fish_seen_subcommand_from build; and string match -qr "^[./]" -- (commandline -ct)' -F
complete -c dkms -n '__fish_seen_subcommand_from install' -a '(__dkms_list source)'
complete -c dkms -n '__fish_seen_subcommand_from install; and string match -qr "^[./]" -- (commandline -ct)' -F
complete -c dkms -n '__fish_seen_subcommand_from uninstall' -a '(__dkms_list source)'
complete -c dkms -n '__fish_seen_subcommand_from uninstall; and string match -qr "^[./]" -- (commandline -ct)' -F
complete -c dkms -n '__fish_seen_subcommand_from unbuild' -a '(__dkms_list source)'
complete -c dkms -n '__fish_seen_subcommand_from unbuild; and string match -qr "^[./]" -- (commandline -ct)' -F
complete -c dkms -n '__fish_seen_subcommand_from remove' -a '(__dkms_list source)'
complete -c dkms -n '__fish_seen_subcommand_from remove; and string match -qr "^[./]" -- (commandline -ct)' -F
complete -c dkms -n '__fish_seen_subcommand_from status' -a '(__dkms_list source)'
complete -c dkms -n '__fish_seen_subcommand_from status; and string match -qr "^[./]" -- (commandline -ct)' -F
complete -c dkms -n '__fish_seen_subcommand_from match' -a '(__dkms_list source)'
complete -c dkms -n '__fish_seen_subcommand_from match; and string match -qr "^[./]" -- (commandline -ct)' -F
complete -c dkms -n '__fish_seen_subcommand_from autoinstall' -a '(__dkms_list source)'
complete -c dkms -n '__fish_seen_subcommand_from autoinstall; and string match -qr "^[./]" -- (commandline -ct)' -F
complete -c dkms -n '__fish_seen_subcommand_from mktarball' -a '(__dkms_list source)'
complete -c dkms -n '__fish_seen_subcommand_from mktarball; and string match -qr "^[./]" -- (commandline -ct)' -F
complete -c dkms -n '__fish_seen_subcommand_from ldtarball' -a '(__dkms_list source)'
complete -c dkms -n '__fish_seen_subcommand_from ldtarball; and string match -qr "^[./]" -- (commandline -ct)' -F
complete -c dkms -n '__fish_seen_subcommand_from generate_mok' -a '(__dkms_list source)'
complete -c dkms -n '__fish_seen_subcommand_from generate_mok; and string match -qr "^[./]" -- (commandline -ct)' -F
complete -c dkms -n '__fish_seen_subcommand_from kernel_preinst' -a '(__dkms_list source)'
complete -c dkms -n '__fish_seen_subcommand_from kernel_preinst; and string match -qr "^[./]" -- (commandline -ct)' -F
complete -c dkms -n '__fish_seen_subcommand_from kernel_postinst' -a '(__dkms_list source)'
complete -c dkms -n '__fish_seen_subcommand_from kernel_postinst; and string match -qr "^[./]" -- (commandline -ct)' -F
complete -c dkms -n '__fish_seen_subcommand_from kernel_prerm' -a '(__dkms_list source)'
complete -c dkms -n '__fish_seen_subcommand_from kernel_prerm; and string match -qr "^[./]" -- (commandline -ct)' -F
