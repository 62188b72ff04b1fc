# fish completion for dkms-kernel-install
# Made by "make docs" from the program's own description of its command line; do not edit.

function __dkms_kernel_install_list --argument-names kind
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

complete -c dkms-kernel-install -f
complete -c dkms-kernel-install -s h -l help -d 'Show context-sensitive help.'
complete -c dkms-kernel-install -s v -l verbose -d 'Also print what is current, and which modules are placed and removed.'
complete -c dkms-kernel-install -l version -d 'Print the version.'
complete -c dkms-kernel-install -l root -x -a '(__fish_complete_directories)' -d 'Work on the root file system that begins at DIR, with its own tools. All other paths are in it.'
complete -c dkms-kernel-install -l timeline -r -F -d 'Write to FILE when each package was worked on, in the trace-event format, which browsers\' viewers open.'
complete -c dkms-kernel-install -n 'not __fish_seen_subcommand_from add add-all sync remove status why reload doctor check fsck key postinst held init' -a add -d 'Install packages for kernels, building what is missing.'
complete -c dkms-kernel-install -n 'not __fish_seen_subcommand_from add add-all sync remove status why reload doctor check fsck key postinst held init' -a add-all -d 'Install packages for every kernel whose headers are installed, building what is missing.'
complete -c dkms-kernel-install -n 'not __fish_seen_subcommand_from add add-all sync remove status why reload doctor check fsck key postinst held init' -a sync -d 'Build and install what is missing or out of date, for every kernel whose headers are installed, and renew each initramfs that has such modules.'
complete -c dkms-kernel-install -n 'not __fish_seen_subcommand_from add add-all sync remove status why reload doctor check fsck key postinst held init' -a remove -d 'Remove all that was built for a kernel, from its directory and from the tree.'
complete -c dkms-kernel-install -n 'not __fish_seen_subcommand_from add add-all sync remove status why reload doctor check fsck key postinst held init' -a status -d 'Show what is registered, built and installed.'
complete -c dkms-kernel-install -n 'not __fish_seen_subcommand_from add add-all sync remove status why reload doctor check fsck key postinst held init' -a why -d 'Say why a module is there or not, step by step, and what to do.'
complete -c dkms-kernel-install -n 'not __fish_seen_subcommand_from add add-all sync remove status why reload doctor check fsck key postinst held init' -a reload -d 'Exchange modules that are loaded for those that are placed, if nothing uses them.'
complete -c dkms-kernel-install -n 'not __fish_seen_subcommand_from add add-all sync remove status why reload doctor check fsck key postinst held init' -a doctor -d 'Say whether each kernel will load what is built here, and what this machine lacks.'
complete -c dkms-kernel-install -n 'not __fish_seen_subcommand_from add add-all sync remove status why reload doctor check fsck key postinst held init' -a check -d 'Build packages for kernels that need not be installed, install nothing, and say which build and which do not.'
complete -c dkms-kernel-install -n 'not __fish_seen_subcommand_from add add-all sync remove status why reload doctor check fsck key postinst held init' -a fsck -d 'Look for damage in the tree, in the directories of kernels and in the caches, and repair it.'
complete -c dkms-kernel-install -n 'not __fish_seen_subcommand_from add add-all sync remove status why reload doctor check fsck key postinst held init' -a key -d 'Show, make, enrol or exchange the key that modules are signed with.'
complete -c dkms-kernel-install -n 'not __fish_seen_subcommand_from add add-all sync remove status why reload doctor check fsck key postinst held init' -a postinst -d 'For maintainer scripts: register a package and sync it.'
complete -c dkms-kernel-install -n 'not __fish_seen_subcommand_from add add-all sync remove status why reload doctor check fsck key postinst held init' -a held -d 'For boot loaders: print each kernel that lacks a required package, in a line of its own. It must not become the default.'
complete -c dkms-kernel-install -n 'not __fish_seen_subcommand_from add add-all sync remove status why reload doctor check fsck key postinst held init' -a init -d 'Write a dkms.conf for a source tree of kernel modules.'
complete -c dkms-kernel-install -n '__fish_seen_subcommand_from add' -l force -d 'Install modules even if the kernel\'s own are as new or newer.'
complete -c dkms-kernel-install -n '__fish_seen_subcommand_from add' -a '(__dkms_kernel_install_list kernel)'
complete -c dkms-kernel-install -n '__fish_seen_subcommand_from add-all' -l force -d 'Install modules even if the kernel\'s own are as new or newer.'
complete -c dkms-kernel-install -n '__fish_seen_subcommand_from sync' -l kernel -x -a '(__dkms_kernel_install_list kernel)' -d 'Only this kernel; may be repeated.'
complete -c dkms-kernel-install -n '__fish_seen_subcommand_from sync' -l package -x -a '(__dkms_kernel_install_list name)' -d 'Only packages whose names match, those that depend on them, and those that they depend on; may be repeated.'
complete -c dkms-kernel-install -n '__fish_seen_subcommand_from sync' -l only-missing -d 'Leave builds as they are if they are only out of date.'
complete -c dkms-kernel-install -n '__fish_seen_subcommand_from sync' -l no-initramfs -d 'Leave each initramfs as it is.'
complete -c dkms-kernel-install -n '__fish_seen_subcommand_from sync' -l hook-next -d 'Leave each initramfs as it is unless kernel-install made it: a hook of the package manager is about to make the others.'
complete -c dkms-kernel-install -n '__fish_seen_subcommand_from sync' -l tell-once -d 'Tell failures that an earlier run told, and since which nothing has changed, in one line, and leave them out of the exit status.'
complete -c dkms-kernel-install -n '__fish_seen_subcommand_from sync' -l dry-run -d 'Print what would be done, and do nothing.'
complete -c dkms-kernel-install -n '__fish_seen_subcommand_from remove' -a '(__dkms_kernel_install_list kernel)'
complete -c dkms-kernel-install -n '__fish_seen_subcommand_from status' -l json -d 'Write JSON, for programs.'
complete -c dkms-kernel-install -n '__fish_seen_subcommand_from status' -l check -d 'End with 1 if anything is not as it should be: why says what.'
complete -c dkms-kernel-install -n '__fish_seen_subcommand_from status' -a '(__dkms_kernel_install_list kernel)'
complete -c dkms-kernel-install -n '__fish_seen_subcommand_from why' -l json -d 'Write JSON, for programs.'
complete -c dkms-kernel-install -n '__fish_seen_subcommand_from why' -a '(__dkms_kernel_install_list name)'
complete -c dkms-kernel-install -n '__fish_seen_subcommand_from reload' -a '(__dkms_kernel_install_list name)'
complete -c dkms-kernel-install -n '__fish_seen_subcommand_from doctor' -l json -d 'Write JSON, for programs.'
complete -c dkms-kernel-install -n '__fish_seen_subcommand_from check' -l headers -x -d 'A directory of headers of a kernel, as /lib/modules/RELEASE/build leads to, or /lib/modules/RELEASE; or a deb or rpm of headers; also a pattern. May be given more than once. The default are the kernels that have their headers installed.'
complete -c dkms-kernel-install -n '__fish_seen_subcommand_from check' -l symbols -d 'Build nothing: say whether the kernels have the symbols that finished modules want, which are the arguments, files of .ko.'
complete -c dkms-kernel-install -n '__fish_seen_subcommand_from check' -l json -d 'Write JSON, for programs.'
complete -c dkms-kernel-install -n '__fish_seen_subcommand_from check' -l junit -r -F -d 'Also write the results to FILE as CI systems read them, in JUnit\'s XML.'
complete -c dkms-kernel-install -n '__fish_seen_subcommand_from check' -l html -r -F -d 'Also write the results to FILE as a page that stands alone.'
complete -c dkms-kernel-install -n '__fish_seen_subcommand_from check' -a '(__dkms_kernel_install_list name)'
complete -c dkms-kernel-install -n '__fish_seen_subcommand_from fsck' -l repair -d 'Repair what can be repaired, and say what is lost. What cannot be made again is left as it is.'
complete -c dkms-kernel-install -n '__fish_seen_subcommand_from postinst' -a '(__dkms_kernel_install_list name)'
complete -c dkms-kernel-install -n '__fish_seen_subcommand_from held' -l hold-restart -d 'Also put /run/reboot-required aside as long as the newest kernel is one of them, and back then.'
complete -c dkms-kernel-install -n '__fish_seen_subcommand_from init' -l name -x -a '(__dkms_kernel_install_list name)' -d 'The package\'s name. Default: the directory\'s, which may be NAME-VERSION.'
complete -c dkms-kernel-install -n '__fish_seen_subcommand_from init' -l package-version -x -d 'The package\'s version. Default: that of a directory NAME-VERSION, else MODULE_VERSION of the sources, else the file VERSION.'
complete -c dkms-kernel-install -n '__fish_seen_subcommand_from init' -l module -x -a '(__dkms_kernel_install_list name)' -d 'A module, as NAME=INSTALL-DIR:SOURCE-DIR:BUILD-DIR:TARGET, as in modlist of Gentoo\'s eclasses. All but the name may be left out.'
complete -c dkms-kernel-install -n '__fish_seen_subcommand_from init' -l make-arg -x -d 'An argument for make, as in modargs. ${kernel_source_dir} and ${kernelver} in it stand for those of each kernel.'
complete -c dkms-kernel-install -n '__fish_seen_subcommand_from init' -l no-kernelrelease -d 'Keep KERNELRELEASE from make, for Makefiles that build nothing when it is set.'
complete -c dkms-kernel-install -n '__fish_seen_subcommand_from init' -l no-autoinstall -d 'Do not build the package for every kernel that comes.'
complete -c dkms-kernel-install -n '__fish_seen_subcommand_from init' -l force -d 'Replace a dkms.conf that is there.'
complete -c dkms-kernel-install -n '__fish_seen_subcommand_from init' -l print -d 'Print the dkms.conf, and write nothing.'
complete -c dkms-kernel-install -n '__fish_seen_subcommand_from init' -x -a '(__fish_complete_directories)'
